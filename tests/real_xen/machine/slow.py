"""slow.py MIB: copy stdin to stdout at MIB MiB a second."""
import os
import sys
import time

PIECE = 64 << 10
pause = PIECE / (float(sys.argv[1]) * 2 ** 20)
while True:
    data = os.read(0, PIECE)
    if not data:
        break
    while data:
        data = data[os.write(1, data):]
    time.sleep(pause)

"""Functions for other processes, which import this module."""
import os
import signal
import sys
import time


def double(number):
    return 2 * number


def kill_odd(number):
    """Ends its process for every odd number."""
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def kill_once(item):
    """Ends its process, but only the first time: ``item`` is a number and the path of a file that remembers."""
    number, path = item
    if number == 3 and not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def slow(number):
    time.sleep(0.2)
    return 2 * number


def endless(place, settings):
    """A scan of an image that never ends."""
    print("scanning", file=sys.stderr, flush=True)
    time.sleep(1000)

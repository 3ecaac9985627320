"""Print the folder to put on Volatility's plugin path."""
import os

print(os.path.dirname(os.path.abspath(__file__)))

"""``python -m xstream.bench``: what reading and writing streams costs, against what the machine can do."""

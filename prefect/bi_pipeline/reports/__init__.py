"""What is said of a run, in French, from what the commands did; `publishing.py` alone writes it."""

"""Reports on a run, in French, from what the commands did; `publishing.py` alone writes them."""

"""How a run ends before its end, and the servers that live beside it."""

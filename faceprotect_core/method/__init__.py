"""The paper's method, block by block, and the loop that any other variable shares (variables.py)."""

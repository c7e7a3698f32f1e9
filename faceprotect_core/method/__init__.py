"""The method's parts that any variable shares; see variables.py. The paper's own parts still stand one floor up."""

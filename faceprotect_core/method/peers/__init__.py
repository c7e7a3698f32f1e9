"""The ways of other papers, over the same loop; research, in the protocol."""

"""Bridges to other libraries. Nothing is imported here: each bridge loads its library when it is imported itself."""

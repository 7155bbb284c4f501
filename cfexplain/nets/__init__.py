"""The torch modules that are trained; import them from their own files."""

"""Tables of numbers and categories: their codes, the rules for their columns, and results as DataFrames."""

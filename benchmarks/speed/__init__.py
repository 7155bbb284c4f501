"""Speed of the search, side by side with what it is compared with, interleaved in one process."""

"""What every other room stands on: arrays, labels, numbers, tiles, files, random streams."""

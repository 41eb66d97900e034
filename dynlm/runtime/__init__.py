"""What every package may use: files, hashing, tensors on disk, processes, signals, validation. It knows no model."""

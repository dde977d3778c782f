"""What a kernel says of samples, in memory."""

"""Where weights come from: a module for each format, all giving tensors by logical name."""

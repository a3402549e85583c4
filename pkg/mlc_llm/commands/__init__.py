"""The commands beside `serve`, one in each module: `main(argv)` parses, works, returns 0."""

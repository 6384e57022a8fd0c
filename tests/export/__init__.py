"""The export: sparse files, narrow networks, ONNX, and the command."""

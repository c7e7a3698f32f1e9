"""An ONNX file of an InsightFace pack, read as data and never run."""

"""Students as ONNX files and in half precision, certified against the model they are made of."""

"""A pruned network as files that are smaller and faster, and that load without Coppice.

sparse.py      model.safetensors: the kept weights alone
chain.py       which networks are a plain sequence of layers
narrow.py      dead units removed from such a sequence
forms.py       which of its layers are quicker sparse
outputs.py     the network's own outputs, which those of the files are compared with
onnx_file.py   model.onnx, checked by onnxruntime
timing.py      milliseconds
bundle.py      all of it: the files of one export, and its report
loaders/       what stands beside the files to read them: plain torch
"""

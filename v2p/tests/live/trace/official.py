"""A trace from stdin as JSON: by the messages of the package `perfetto` (PyPI), which its maintainers make of their schema."""

import sys

from google.protobuf.json_format import MessageToJson
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

trace = Trace.FromString(sys.stdin.buffer.read())
print(MessageToJson(trace, preserving_proto_field_name=True, indent=None))

"""The gRPC face of the engine: servicers, validation, statuses, the server and a small client."""

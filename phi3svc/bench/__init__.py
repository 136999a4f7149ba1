"""The load generator behind `phi3svc bench`: a layer between the command line and the service.

workload → load → target (engine or gRPC) → record → results → report, document, plot.
"""

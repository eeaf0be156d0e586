"""What the package costs, each benchmark answering one question: ``python -m benchmarks.bench_stream --help``."""

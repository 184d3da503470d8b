"""The command `python -m experiments.benchmarks.gpu`."""

from experiments.benchmarks.gpu.suite import main

if __name__ == "__main__":
    main()

"""The program's name and version, written into every picture."""

NAME = "Easel"
VERSION = "0.1.0"

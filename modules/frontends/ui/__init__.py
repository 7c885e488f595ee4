"""The page: Gradio components on one side, requests and followed jobs on the other."""

"""The demo of the command line: real photos, a real classifier and a real ViT through refine_steps."""

"""The command line and the recipes: resolves a recipe, runs the stages it asks for, shows how far they are."""

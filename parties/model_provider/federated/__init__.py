"""Train one model over several sites with Flower, without an image leaving its site."""

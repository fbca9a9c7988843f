"""What producer and consumer have in common; knows neither of them."""

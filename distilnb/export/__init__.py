"""WHERE it goes: the Distiset, its card, the Hub."""

"""A loopback exchange that speaks the protocol of Binance spot."""

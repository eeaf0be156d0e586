"""Reads items out of a body while its bytes are still arriving. Nothing here awaits or does I/O.

A chunk flows one way: `item_decoder` receives it and finds out which part of the body it belongs to. `envelope` reads
what surrounds the items, and `array_scanner` finds where their array begins. Inside the array, `fast_parser` (or
`ijson_parser`) splits the bytes into items, and `item_collector` decodes them and keeps count. Below them,
`body_decoder` and `array_parser` hold what both decoders and both parsers share, and `lexer` wraps ijson.

Read `item_decoder` first, then `fast_parser`. Decoding and repairing one item is not done here but in `item_reader`,
one folder up; reading chunks off the network is up to `ItemStream`.
"""

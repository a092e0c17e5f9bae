"""What any vision-language model needs from a sample. Scoring uses it; nothing in here knows what is done with the model.

One direction: an index is read (`index_reader`, `records`), samples become tokens (`conversations`, `chat_template`, `tokenize`), their images
pictures (`images`) and runs of tokens (`expand`), rows are made ready (`preprocess`) ahead of the model (`prefetch`) within a budget of bytes
(`memory`) and laid side by side (`collate`). `load` opens a folder; `family` is where models differ, `families` which one does.
"""

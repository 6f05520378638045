"""How a document is cut: at headings, paragraphs and sentences, into pieces the embedder reads whole."""

import re
from collections.abc import Iterator, Sequence

from semantic_text_splitter import MarkdownSplitter

from services.retrieval.domain import Chunk

WANTED_TOKENS, MOST_TOKENS = 170, 210
"""A piece is ended at the best border between the two. The embedder reads 256 tokens, the title's among them; pieces
of 120 to 160 were found less well (nDCG@10 on CISI, hybrid: 0.435 against 0.447)."""

LEAST_TOKENS = 32
"""A smaller piece (a heading, a row of a table) is put before the next one, if both fit into one."""

MOST_CODE_POINTS = 8000
"""No piece is longer, so that in UTF-8, with a title, it fits Milvus's 65,535 bytes even when it is all spaces."""


class Chunker:
    """Cuts texts. Takes CPU time, a third of a second for 200,000 code points of prose: call it in a thread."""

    def __init__(self) -> None:
        """Knows nothing of the texts yet."""
        self._token = re.compile(r"[A-Za-z]{1,8}|[0-9]{1,3}|[^\sA-Za-z0-9]")
        self._splitter = MarkdownSplitter.from_callback(
            self.tokens, (WANTED_TOKENS, MOST_TOKENS), overlap=0, trim=False
        )

    def tokens(self, text: str) -> int:
        """About how many tokens the embedder makes of a text.

        Counts pieces of words of 8 letters, of numbers of 3 digits, and every other character. The tokenizer of
        MiniLM-L6-v2 makes 0.9 of each in English, 1.0 in code, URLs, Russian, Arabic, Chinese and Japanese, 1.6 in
        German and 2.0 in Korean, where it does not read the end of a long piece; words are matched in all of it. The
        tokenizer itself comes only in a package of 80 MB, and is no faster.
        """
        return sum(1 for _ in self._token.finditer(text))

    def split(self, text: str) -> Sequence[Chunk]:
        """Pieces that together are the text. A blank one is left only where one of 8,000 code points would grow."""
        pieces = [""]
        for section in _sections(text):
            for piece in self._splitter.chunks(section):
                if self._belong_together(pieces[-1], piece):
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
        return list(_placed(pieces))

    def _belong_together(self, last: str, piece: str) -> bool:
        if len(last) + len(piece) > MOST_CODE_POINTS:
            return False
        if not last.strip() or not piece.strip():
            return True
        return self._is_small(last) and self.tokens(last + piece) <= MOST_TOKENS + LEAST_TOKENS

    def _is_small(self, piece: str) -> bool:
        lines = piece.split("\n")
        return self.tokens(piece) < LEAST_TOKENS or all(not line.strip() or line.startswith("#") for line in lines)


def _sections(text: str) -> Iterator[str]:
    """The text in parts of at most 8,000 code points: the splitter needs half a minute for 100,000 nested quotes."""
    start = 0
    while len(text) - start > MOST_CODE_POINTS:
        least, most = start + MOST_CODE_POINTS // 2, start + MOST_CODE_POINTS
        borders = ((text.rfind(border, least, most), len(border)) for border in ("\n\n", "\n", " "))
        end = next((at + length for at, length in borders if at >= 0), most)
        yield text[start:end]
        start = end
    yield text[start:]


def _placed(pieces: Sequence[str]) -> Iterator[Chunk]:
    start = 0
    for piece in pieces:
        yield Chunk(start=start, text=piece)
        start += len(piece)

/**
 * What search takes for a word, the same for a text and for what is looked for, whichever database finds it: a run of letters
 * and digits, without case and Latin accents; of scripts that put no spaces between words each character. Nothing else of a
 * text can be found, and nothing in a word means anything to a query language.
 */

/** Longer runs (keys, data) are found by their first so many characters. */
const WORD_CHARACTERS_MAX = 64;
/** Of one text. The largest text of the chat, 16 KiB, comes to fewer, unless it is made to have more. */
const WORDS_MAX = 4_096;

const SPACELESS =
  "[\\p{scx=Han}\\p{scx=Hiragana}\\p{scx=Katakana}\\p{scx=Thai}\\p{scx=Lao}\\p{scx=Khmer}\\p{scx=Myanmar}]";
const LETTER = "[\\p{L}\\p{N}\\p{M}]";
const WORD = new RegExp(`(?=${LETTER})${SPACELESS}|(?:(?!${SPACELESS})${LETTER})+`, "gu");
/** Most texts in many places; found five times as fast, which the archive does for every message. */
const ASCII = /^[ -~\s]*$/;
const ASCII_WORD = /[a-z0-9]+/g;
const ACCENT = /[\u0300-\u036f]/g;

/** The distinct words of a text, in no particular order. */
export function wordsOf(text: string): string[] {
  const isAscii = ASCII.test(text);
  const lower = text.toLowerCase();
  const plain = isAscii ? lower : lower.normalize("NFKD").replace(ACCENT, "").normalize("NFC");
  const words = new Set<string>();
  for (const word of plain.match(isAscii ? ASCII_WORD : WORD) ?? []) {
    words.add(word.length <= WORD_CHARACTERS_MAX ? word : Array.from(word).slice(0, WORD_CHARACTERS_MAX).join(""));
    if (words.size === WORDS_MAX) break;
  }
  return [...words];
}

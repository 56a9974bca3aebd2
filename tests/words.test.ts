/** What a word is, to an index and to who searches it. */

import { expect, test } from "bun:test";
import { wordsOf } from "../lib/words.ts";

test("words are letters and digits, without case and accents; characters, of scripts without spaces", () => {
  expect(wordsOf("It's 5 o'clock, THE clock!")).toEqual(["it", "s", "5", "o", "clock", "the"]);
  expect(wordsOf("Müller MÜLLER mu\u0308ller İstanbul ﬁne")).toEqual(["muller", "istanbul", "fine"]);
  expect(wordsOf("abc北京def ありがとう 한국어 हिन्दी")).toEqual([
    ...["abc", "北", "京", "def", "あ", "り", "か\u3099".normalize("NFC"), "と", "う", "한국어", "हिन्दी"],
  ]);
  expect(wordsOf(" ?!*\"'():^-<>&|\\\u0000\ud800🜁👍🏽 \u200d")).toEqual([]);
});

test("a text cannot make an index large: long runs are cut, and so are very many", () => {
  expect(wordsOf(`${"a".repeat(100)} ${"a".repeat(90)}`)).toEqual(["a".repeat(64)]);
  expect(wordsOf(Array.from({ length: 9_000 }, (_, i) => i).join(" "))).toHaveLength(4_096);
});

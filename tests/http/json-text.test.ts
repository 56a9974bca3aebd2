/** The text of parts of a document is the text that was written, whatever was written around it. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { memberText, memberTexts } from "../../lib/http/index.ts";

test.each<[string, (string | undefined)[]]>([
  ['{"m":[{"d":1.0},{"d": 9007199254740993 },{"x":1}]}', ["1.0", "9007199254740993", undefined]],
  ['{"m":[]}', []],
  ['{"x":{"m":[{"d":1}]}}', []],
  ['{"m":{"d":1}}', []],
  ['{"m":[1,"{\\"d\\":2}",[{"d":3}],null,{"d":{"d":4}}]}', [undefined, undefined, undefined, undefined, '{"d":4}']],
  ['{"m":[{"d":1}],"m":[{"d":2}]}', ["2"]],
  ['{"m":[{"d":1,"d":[ ]}]}', ["[ ]"]],
  ['{"m":[{"\\u0064":"}\\"],"}]}', ['"}\\"],"']],
  [' {\n"m" : [ {"d" :\t{ "a" : [ ] } } , {"d":-1e400}\r] } ', ['{ "a" : [ ] }', "-1e400"]],
  ['{"m":[{"__proto__":1,"d":"\\\\"}]}', ['"\\\\"']],
])("%s", (text, expected) => {
  JSON.parse(text);
  expect(memberTexts(text, "m", "d")).toEqual(expected);
});

test("of any document, each text parses to the member", () => {
  fc.assert(
    fc.property(fc.array(fc.record({ d: fc.jsonValue(), other: fc.jsonValue() })), fc.nat(2), (messages, indent) => {
      const text = JSON.stringify({ before: messages, messages, after: 1 }, null, indent);
      const texts = memberTexts(text, "messages", "d");
      expect(texts.map((part) => JSON.parse(part!))).toEqual(
        JSON.parse(text).messages.map(({ d }: { d: unknown }) => d),
      );
    }),
  );
});

test("a member of a member", () => {
  expect(memberText('{"a":{"b": [1.0] ,"c":2}}', "a", "b")).toBe("[1.0]");
  for (const text of ['{"a":{"c":{"b":1}}}', '{"a":[{"b":1}]}', '{"b":1}', "[]", '"a"', '{"a":1}']) {
    expect(memberText(text, "a", "b")).toBeUndefined();
  }
});

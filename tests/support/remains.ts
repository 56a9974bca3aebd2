/** Where a text still stands, in all of a test's Redis: names of keys, and everything that they hold, whatever their type. */

import { contentOf } from "./content.ts";
import type { TestStore } from "./redis.ts";

/** `<key>: <what surrounds the text>` of each key that has any of the texts. */
export async function remainsIn(store: TestStore, texts: readonly string[]): Promise<string[]> {
  const contents = Object.entries(await contentOf(store));
  return contents.flatMap(([key, content]) => {
    const all = `${key}: ${JSON.stringify(content)}`;
    const text = texts.find((one) => all.includes(one));
    if (text === undefined) return [];
    const at = all.indexOf(text);
    return [`${key}: …${all.slice(Math.max(0, at - 80), at + 80)}…`];
  });
}

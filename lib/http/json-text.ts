/**
 * The text of a part of a JSON document, as it was written. Parsed and written anew it would be another text: numbers beyond 2^53 lose
 * digits, 1.0 becomes 1. Works on text that JSON.parse has taken; of a name given twice it takes the last, as JSON.parse does.
 */

/** Of each element of the list `list` of the document, the text of its member `member`; undefined where there is none. */
export function memberTexts(text: string, list: string, member: string): (string | undefined)[] {
  const listAt = memberOf(text, skipBlank(text, 0), list)?.start;
  if (listAt === undefined || text[listAt] !== "[") return [];
  return [...elementsOf(text, listAt)].map((start) => {
    const found = text[start] === "{" ? memberOf(text, start, member) : undefined;
    return found && text.slice(found.start, found.end);
  });
}

/** The text of the member of a member of the document; undefined when there is none. */
export function memberText(text: string, outer: string, inner: string): string | undefined {
  const at = memberOf(text, skipBlank(text, 0), outer)?.start;
  const found = at === undefined ? undefined : memberOf(text, at, inner);
  return found && text.slice(found.start, found.end);
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/** The last member of that name in the object that begins at `at`. */
function memberOf(text: string, at: number, name: string): Span | undefined {
  if (text[at] !== "{") return undefined;
  let found: Span | undefined;
  for (let i = skipBlank(text, at + 1); text[i] !== "}"; ) {
    const nameEnd = stringEnd(text, i);
    const start = skipBlank(text, skipBlank(text, nameEnd) + 1);
    const end = valueEnd(text, start);
    // A name may be written with escapes.
    if (JSON.parse(text.slice(i, nameEnd)) === name) found = { start, end };
    i = afterComma(text, end);
  }
  return found;
}

/** Where the elements of the list that begins at `at` begin. */
function* elementsOf(text: string, at: number): Generator<number> {
  for (let i = skipBlank(text, at + 1); text[i] !== "]"; i = afterComma(text, valueEnd(text, i))) yield i;
}

function afterComma(text: string, end: number): number {
  const i = skipBlank(text, end);
  return text[i] === "," ? skipBlank(text, i + 1) : i;
}

function valueEnd(text: string, start: number): number {
  const first = text[start];
  if (first === '"') return stringEnd(text, start);
  if (first !== "{" && first !== "[") {
    let i = start;
    while (i < text.length && !",]} \t\n\r".includes(text[i]!)) i++;
    return i;
  }
  let depth = 0;
  for (let i = start; ; ) {
    const c = text[i];
    if (c === '"') {
      i = stringEnd(text, i);
      continue;
    }
    if (c === "{" || c === "[") depth += 1;
    else if (c === "}" || c === "]") depth -= 1;
    i += 1;
    if (depth === 0) return i;
  }
}

function stringEnd(text: string, start: number): number {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
  return i + 1;
}

function skipBlank(text: string, from: number): number {
  let i = from;
  while (i < text.length && " \t\n\r".includes(text[i]!)) i++;
  return i;
}

/**
 * What the units print. To a pipe: their JSON lines as they are. To a terminal: one short line each, for people. What is no JSON (a
 * crash's stack) is passed on under the unit's name.
 */

export interface Output {
  /** Prints a stream's lines until it ends. */
  follow(unit: string, stream: ReadableStream<Uint8Array>): Promise<void>;
  /** A line of the supervisor's own, for people. */
  say(text: string): void;
}

/** A line without end is cut here rather than kept. */
const LINE_CHARACTERS_MAX = 64 * 1_024;
const COLOURS: Record<string, string> = { warn: "\u001b[33m", error: "\u001b[31m" };
const RESET = "\u001b[0m";
/** Fields that the short line shows in another place or not at all. */
const SHOWN_ELSEWHERE = new Set(["level", "time", "role", "pid", "msg"]);

export function createOutput(isTerminal: boolean = process.stdout.isTTY ?? false): Output {
  const print = (unit: string, line: string) => {
    if (line !== "") process.stdout.write(`${isTerminal ? shorten(unit, line) : line}\n`);
  };
  return {
    async follow(unit, stream) {
      let rest = "";
      const decoder = new TextDecoder();
      for await (const bytes of stream) {
        const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
        rest = lines.pop()!.slice(0, LINE_CHARACTERS_MAX);
        for (const line of lines) print(unit, line);
      }
      print(unit, rest);
    },
    say: (text) => void process.stdout.write(`${text}\n`),
  };
}

function shorten(unit: string, line: string): string {
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return `${unit}: ${line}`;
  }
  const time = new Date(Number(fields.time)).toISOString().slice(11, 19);
  const level = String(fields.level);
  const more = Object.entries(fields)
    .filter(([name]) => !SHOWN_ELSEWHERE.has(name))
    .map(([name, value]) => `${name}=${typeof value === "object" ? reasonOf(value) : String(value)}`)
    .join(" ");
  const colour = COLOURS[level];
  const text = `${time} ${String(fields.role).padEnd(10)} ${fields.msg} ${more}`.trimEnd();
  return colour === undefined ? text : `${colour}${text}${RESET}`;
}

function reasonOf(value: unknown): string {
  const { message } = (value ?? {}) as { message?: string };
  return message ?? JSON.stringify(value);
}

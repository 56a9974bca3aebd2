/** A client of server-sent events, as much of it as tests need: ids, event names, data, and comments counted. */

export interface StreamEvent {
  readonly id: string;
  readonly event: string;
  readonly data: string;
}

export interface EventStream {
  readonly status: number;
  readonly headers: Headers;
  /** Every event so far. */
  readonly events: readonly StreamEvent[];
  readonly comments: readonly string[];
  /** What a client would reconnect with: the last id that came, with an event or without. */
  readonly lastId: string;
  /** Resolves when the server ended it. */
  readonly ended: Promise<void>;
  close(): void;
}

export async function openEventStream(url: string, headers: Record<string, string>): Promise<EventStream> {
  const closing = new AbortController();
  const response = await fetch(url, { headers, signal: closing.signal });
  const events: StreamEvent[] = [];
  const comments: string[] = [];
  const state = { lastId: "" };
  const take = (block: string) => {
    const fields: Partial<Record<string, string[]>> = {};
    for (const line of block.split("\n")) {
      const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
      if (name === "") comments.push(value);
      else fields[name] = [...(fields[name] ?? []), value];
    }
    if (fields.id) state.lastId = fields.id.at(-1)!;
    if (fields.data)
      events.push({ id: state.lastId, event: fields.event?.at(-1) ?? "message", data: fields.data.join("\n") });
  };
  const read = async () => {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of response.body!) {
      const blocks = (rest + decoder.decode(chunk, { stream: true })).split("\n\n");
      rest = blocks.pop()!;
      for (const block of blocks) take(block);
    }
  };
  // Ended by us, or by the server in any way.
  const ended = read().catch(() => undefined);
  return {
    status: response.status,
    headers: response.headers,
    events,
    comments,
    get lastId() {
      return state.lastId;
    },
    ended,
    close: () => closing.abort(),
  };
}

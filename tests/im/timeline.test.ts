import { expect, test } from "bun:test";
import type { ReadArchive } from "../../lib/im/index.ts";
import { makeChat } from "../support/im.ts";
import { range } from "../support/queue.ts";
import { openTestStore } from "../support/redis.ts";

test.each([false, true])(
  "a window that is trimmed while the archive is read leaves no hole, newest %p",
  async (newest) => {
    await using store = await openTestStore("im-timeline", { partitions: 1 });
    const { commands } = store.redis;
    let conversation = "";
    const archive: Awaited<ReturnType<ReadArchive>>[number][] = [];
    const trimTo = (seq: number) => commands.xtrim(store.keys.log(conversation), "MINID", `${seq}-0`);
    const readArchive: ReadArchive = async ({ after, before, limit }) => {
      const found = archive.filter(({ seq }) => seq > after && seq < before);
      const page = newest ? found.slice(-limit) : found.slice(0, limit);
      // Entries 5 to 14 leave the window behind the archive, which has held them for long.
      await trimTo(15);
      return page;
    };
    const chat = makeChat(store, readArchive);
    conversation = await chat.group("ann", "bob");
    for (const n of range(1, 20)) await chat.send("ann", conversation, `text ${n}`);
    for (const [seq, kind, ordinal, record] of await chat.rows(conversation)) {
      archive.push({ seq, kind: kind === "m" ? "message" : "settings", ordinal, record: JSON.stringify(record) });
    }
    await trimTo(5);

    const { epoch } = await chat.conversations.get("ann", conversation);
    const whole = { conversation, epoch, after: 0, before: 21, limit: 100, messagesOnly: true };
    const read = await chat.timeline.read({ ...whole, newest });
    expect(read.map(({ seq }) => seq)).toEqual(range(1, 20));
  },
);

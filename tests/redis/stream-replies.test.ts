/** Replies of blocked stream reads are taken apart by our own hands: whatever the pieces in which they come, as ioredis would. */

import { afterAll, expect, test } from "bun:test";
import { silentLog } from "../../lib/observability/index.ts";
import { openRedis, type RedisClient, type RedisConnections } from "../../lib/redis/index.ts";
import { openTestStore } from "../support/redis.ts";

/** A proxy that passes Redis' replies on in pieces of so many bytes, each in a packet of its own. */
function startSlicer(pieceBytes: number) {
  const { hostname, port } = new URL(process.env.TEST_REDIS_URL!);
  const server = Bun.listen<{ upstream?: Bun.Socket }>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      async open(client) {
        client.data = {};
        client.setNoDelay(true);
        let last = Promise.resolve();
        client.data.upstream = await Bun.connect({
          hostname,
          port: Number(port),
          socket: {
            data(_, bytes) {
              last = last.then(() => pass(client, Buffer.from(bytes)));
            },
          },
        });
      },
      async data(client, bytes) {
        const copy = Buffer.from(bytes);
        while (!client.data.upstream) await Bun.sleep(1);
        client.data.upstream.write(copy);
      },
      close: (client) => void client.data.upstream?.end(),
    },
  });
  const pass = async (client: Bun.Socket<{ upstream?: Bun.Socket }>, bytes: Buffer) => {
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      client.write(bytes.subarray(at, at + pieceBytes));
      client.flush();
      if (pieceBytes < 64) await Bun.sleep(0);
    }
  };
  return { url: `redis://127.0.0.1:${server.port}`, stop: () => server.stop(true) };
}

const open: { close(): unknown }[] = [];
afterAll(() => Promise.all(open.map((each) => each.close())));

async function reader(pieceBytes?: number): Promise<RedisClient> {
  const slicer = pieceBytes === undefined ? undefined : startSlicer(pieceBytes);
  if (slicer) open.push({ close: slicer.stop });
  const redis: RedisConnections = await openRedis(slicer?.url ?? process.env.TEST_REDIS_URL!, "replies", silentLog);
  open.push(redis);
  return redis.blocking("reader");
}

const TEXTS = ["", "plain", "grüße", "日本語テキスト", "🎉", "a\r\nb $5 *3 %2", "x".repeat(70_000), "é".repeat(50_000)];

test.each([undefined, 7, 1_000, 65_536])(
  "as ioredis decodes them, in pieces of %p bytes",
  async (pieceBytes) => {
    await using store = await openTestStore("replies");
    const { commands } = store.redis;
    const streams = [0, 1, 2].map((partition) => store.keys.topic("t", partition));
    // A piece is a turn of the loop: fewer bytes for the small ones.
    const texts = pieceBytes === 7 ? TEXTS.filter(({ length }) => length < 100) : TEXTS;
    for (const stream of streams) {
      for (const text of texts) await commands.xadd(stream, "*", `header ${text.slice(0, 9)}`, text, "second", "2");
    }
    const expected = await Promise.all(
      streams.map(async (stream) => [stream, await commands.xrange(stream, "-", "+")]),
    );
    const connection = await reader(pieceBytes);
    for (let round = 0; round < 3; round++) {
      expect(await connection.client("ID")).toBeGreaterThan(0);
      const read = connection.xread("COUNT", 100, "BLOCK", 1_000, "STREAMS", ...streams, ...streams.map(() => "0"));
      expect(await read).toEqual(expected as Awaited<typeof read>);
    }
  },
  60_000,
);

test("nothing, errors, groups, and reads that wait behind each other are as ever", async () => {
  await using store = await openTestStore("replies");
  const { commands } = store.redis;
  const stream = store.keys.topic("t", 0);
  const connection = await reader(20);
  expect(await connection.xread("BLOCK", 20, "STREAMS", stream, "$")).toBeNull();
  const ofGroup = () => connection.xreadgroup("GROUP", "g", "m", "COUNT", 2, "BLOCK", 20, "STREAMS", stream, ">");
  expect(ofGroup()).rejects.toThrow("NOGROUP");
  await commands.xgroup("CREATE", stream, "g", "0", "MKSTREAM");
  for (let n = 0; n < 5; n++) await commands.xadd(stream, "*", "n", String(n));
  const numbers = (reply: unknown) => (reply as [string, [string, string[]][]][])[0]![1].map(([, [, n]]) => Number(n));
  expect(numbers(await ofGroup())).toEqual([0, 1]);
  const both = await Promise.all([ofGroup(), ofGroup(), connection.client("ID"), connection.xlen(stream)]);
  expect([numbers(both[0]), numbers(both[1]), both[3]]).toEqual([[2, 3], [4], 5]);
  expect(await ofGroup()).toBeNull();
  await commands.set(store.keys.topic("t", 1), "no stream");
  expect(connection.xread("STREAMS", store.keys.topic("t", 1), "0")).rejects.toThrow("WRONGTYPE");
  expect(numbers(await connection.xread("STREAMS", stream, "0"))).toEqual([0, 1, 2, 3, 4]);
});

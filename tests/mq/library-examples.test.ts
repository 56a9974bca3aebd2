/** The queue without the chat: the examples of workers/examples/library, run as a reader would run them. */

import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { connectQueue, defineTopic } from "../../lib/mq/index.ts";
import { startTestRedis } from "../support/redis-server.ts";

async function runExample(name: string): Promise<string> {
  const server = await startTestRedis();
  try {
    const script = new URL(`../../workers/examples/library/${name}.ts`, import.meta.url).pathname;
    const child = Bun.spawn([process.execPath, script, server.url], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    expect({ code: await child.exited, stderr }).toEqual({ code: 0, stderr: "" });
    return stdout;
  } finally {
    await server.stop();
  }
}

describe("library examples", () => {
  test("ordered: every order's steps in order, though a payment fails once", async () => {
    expect(await runExample("ordered")).toBe(
      "20 orders placed, paid and shipped, each in order\norder 7: placed, paid (attempt 2), shipped\n",
    );
  });

  test("transactional: nothing twice and nothing lost, though a producer died before its commit", async () => {
    expect(await runExample("transactional")).toBe("stock -3, revenue 12, receipts 1, 2, 3\n");
  });

  test("delayed: the unpaid are cancelled, the paid are not, and who pays late hears so", async () => {
    let printed = await runExample("delayed");
    // Who stands still for the second that order 2 has hears the truth, which is another: it is run again.
    for (let runs = 1; runs < 3 && /^order [23] .*: already_fired$/m.test(printed); runs++) {
      printed = await runExample("delayed");
    }
    // Likewise, two that come at once may come in any order.
    expect(printed.replace("orders 3 and 1", "orders 1 and 3")).toBe(
      [
        "order 2 is paid: ok",
        "order 3 has another second: ok",
        "cancelled: orders 1 and 3",
        "order 1 is paid too late: already_fired\n",
      ].join("\n"),
    );
  });
});

test("connectQueue makes an installation on an empty Redis, keeps to the one it finds, and closes what it opened", async () => {
  const server = await startTestRedis();
  try {
    const topic = defineTopic("t", { schema: v.number() });
    const placed = new Set<number>();
    for (const partitions of [4, 16]) {
      await using queue = await connectQueue({ url: server.url, member: "m", prefix: "lib", partitions });
      for (let i = 0; i < 50; i++)
        placed.add((await queue.publish(topic, { type: "n", key: `k${i}`, data: i })).partition);
    }
    expect([...placed].sort()).toEqual([0, 1, 2, 3]);
    expect(connectQueue({ url: server.url, member: "no member" })).rejects.toThrow("member must be");
  } finally {
    await server.stop();
  }
});

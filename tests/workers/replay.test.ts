/**
 * Two small logs with joins, leaves, a rename and dirt, and with edits, recalls, reactions, reads and typing mixed in, on two devices
 * each, through a private Skein of separate processes: every count is zero.
 */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const NICKS = ["ann", "bob`", "c y", "[dee]", "{eve}", "名", "f|away"];

/** Some 50 lines: everybody speaks, some come and go between. */
function log(seed: number): Uint8Array {
  const lines: string[] = [];
  for (let i = 0; i < 45; i++) {
    const nick = NICKS[(i * 5 + seed) % NICKS.length]!;
    const minute = String(i % 60).padStart(2, "0");
    lines.push(`[23:${minute}] <${nick}> line ${i} of ${seed}: ünï · "quoted" \\ \u0002bold ${"x".repeat(i * 7)}`);
    if (i === 10)
      lines.push("=== guest [g@host.example] has joined #here", "=== guest [g@host.example] has joined #here");
    if (i === 12) lines.push("[23:12] <guest> hello", "=== guest is now known as host", "[23:12] <host> still me");
    if (i === 20) lines.push("=== f|away [f@host.example]  has left #here []", "=== mode/#here [+o ann]  by nobody");
    if (i === 30)
      lines.push(
        "[23:30] <host>",
        "=== passer [p@host.example] has joined #here",
        "=== passer [p@host.example] has left #here",
      );
    if (i === 40) lines.push("=== host [h@host.example] has left #here", "=== guest [g@host.example] has joined #here");
  }
  return new Uint8Array([...new TextEncoder().encode(`${lines.join("\n")}\n[23:59] <ann> caf`), 0xe9, 0x0a]);
}

test("a replay over two gateways comes out with zeros", async () => {
  const folder = mkdtempSync(join(tmpdir(), "skein-test-replay-"));
  try {
    const files = [0, 3].map((seed) => join(folder, `${seed}.log`));
    for (const [i, file] of files.entries()) writeFileSync(file, log(i * 3));
    const child = Bun.spawn(
      [
        process.execPath,
        "scripts/skein/main.ts",
        "replay",
        ...files,
        "--gateways",
        "2",
        "--mix",
        "0.5",
        "--seed",
        "7",
        "--json",
      ],
      {
        stdout: "pipe",
        stderr: "pipe",
      },
    );
    const [text, errors] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    expect(errors).toBe("");
    const result = JSON.parse(text);
    expect(result).toMatchObject({ lines: 96, gateways: 2, kills: [], problems: [], isClean: true });
    expect(result.files[0]).toMatchObject({ said: 48, empty: 1, replacements: 1, repairedLines: 1, other: 1 });
    expect(result.findings.map(({ where }: { where: string }) => where)).toEqual([
      ...["members", "fresh client", "devices", "read cursors", "history", "archive.db", "orders", "trades", "ads"],
    ]);
    for (const finding of result.findings) {
      expect(finding).toMatchObject({ lost: 0, doubled: 0, reordered: 0, different: 0, outside: 0 });
    }
    expect(result.deliveries).toBeGreaterThan(96 * 5);
    expect(result.caughtUp).toBeGreaterThan(0);
    for (const count of Object.values(result.acts)) expect(count).toBeGreaterThan(0);
    expect(child.exitCode).toBe(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

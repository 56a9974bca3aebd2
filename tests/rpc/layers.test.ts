import { expect, test } from "bun:test";
import {
  assertMayCall,
  assertMayConsume,
  assertMayPublish,
  isGroupOfTable,
  isOpenToServices,
  LAYERS,
  mayCall,
  ROLES,
  renderLayers,
} from "../../lib/rpc/index.ts";

test("calls go down only, and no role calls a peer", () => {
  for (const from of ROLES) {
    for (const to of ROLES) {
      if (mayCall(from, to)) expect(LAYERS[from].layer).toBeGreaterThan(LAYERS[to].layer);
    }
  }
});

test("every topic that is consumed is published by somebody", () => {
  for (const role of ROLES) {
    for (const topic of Object.keys(LAYERS[role].consumes)) {
      expect(ROLES.filter((publisher) => LAYERS[publisher].publishes.includes(topic))).not.toEqual([]);
    }
  }
});

test("a violation names both ends and the way to take", () => {
  expect(() => assertMayCall("gateway", "archive")).toThrow(
    "gateway (layer 3) may not call archive (layer 1); call logic, which calls archive",
  );
  expect(() => assertMayCall("scheduler", "logic")).toThrow("publish to im.commands, which logic consumes");
  expect(() => assertMayCall("logic", "orders")).toThrow("orders (outside the layers); publish to im.events");
  expect(() => assertMayPublish("gateway", "im.events")).toThrow(
    "gateway (layer 3) may not publish to im.events (consumed by logic, extlogic, archive, orders, trades, ads): only logic may",
  );
  expect(() => assertMayConsume("orders", "im.events", "delivery")).toThrow("orders may consume im.events as orders");
});

test("a user's topic may bear any name, also one that every object has", () => {
  for (const name of ["constructor", "toString", "__proto__"]) {
    expect(isOpenToServices(name)).toBe(true);
    expect(isGroupOfTable(name, name)).toBe(false);
  }
  expect(isGroupOfTable("im.events", "delivery")).toBe(true);
});

test("the table is printed for people", () => {
  const text = renderLayers();
  expect(text).toContain("gateway    ── RPC ──► logic");
  expect(text).toContain("── publish ──► im.commands ──► logic");
});

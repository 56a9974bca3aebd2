/** Columns for people: words to the left, numbers to the right. */

export function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? "").length)));
  const line = (cells: readonly string[]) =>
    cells.map((cell, i) => (isNumber(cell) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join("  ");
  return [line(head), widths.map((width) => "─".repeat(width)).join("  "), ...rows.map(line)]
    .map((text) => text.trimEnd())
    .join("\n");
}

function isNumber(cell: string): boolean {
  return /^[\d.,]+( (ms|s|\/s|%))?$/.test(cell);
}

// Ask again whenever something in the form changes: the closed form at once, a simulation when it rests.
"use strict";
const form = document.getElementById("asked"), answer = document.getElementById("answer");
const REST_MS = 500;
let under_way = null, rest = null;

function query() {
  const asked = new URLSearchParams(new FormData(form));
  for (const [key, value] of [...asked]) if (value === "") asked.delete(key);
  return asked.toString();
}

async function ask(path) {
  if (under_way) under_way.abort();
  under_way = new AbortController();
  const asked = query();
  try {
    const reply = await fetch(path + "?" + asked, { signal: under_way.signal });
    answer.innerHTML = await reply.text();
  } catch (error) {
    if (error.name === "AbortError") return;
    answer.innerHTML = '<p class="problems" role="alert">moesim does not answer: is it still running?</p>';
  }
  history.replaceState(null, "", "/?" + asked);
  for (const link of document.querySelectorAll("a.get")) link.href = link.dataset.path + "?" + asked;
}

function changed() {
  clearTimeout(rest);
  ask("/estimated");
  rest = setTimeout(() => ask("/simulated"), REST_MS);
}

// A slider's place is the logarithm of the number beside it.
for (const slider of document.querySelectorAll("input[type=range]")) {
  const number = form.elements[slider.dataset.for];
  const low = Math.log(slider.dataset.low), high = Math.log(slider.dataset.high);
  const place = () => { slider.value = Math.round(1000 * (Math.log(number.value || 1) - low) / (high - low)); };
  slider.addEventListener("input", () => {
    number.value = Math.round(Math.exp(low + (high - low) * slider.value / 1000));
  });
  number.addEventListener("input", place);
  place();
}

form.addEventListener("input", (event) => {
  // Another column needs another form.
  if (event.target.name === "b") form.submit(); else changed();
});
form.addEventListener("submit", () => clearTimeout(rest));
rest = setTimeout(() => ask("/simulated"), REST_MS);

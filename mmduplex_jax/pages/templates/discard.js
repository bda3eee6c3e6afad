// Collects the clips that a person does not want as the text of a file that `launch.prepare` honours.
const list = document.querySelector("#discarded"), save = document.querySelector("#save");
const boxes = [...document.querySelectorAll("input[data-key]")];
const collect = () => {
  const keys = boxes.filter((box) => box.checked).map((box) => box.dataset.key);
  list.value = keys.join("\n");
  save.href = "data:text/plain;charset=utf-8," + encodeURIComponent(keys.map((key) => key + "\n").join(""));
};
for (const box of boxes) box.addEventListener("change", collect);
collect();

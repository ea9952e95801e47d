//! Pickles of state dictionaries, parsed and never executed.
//!
//! A pickle is a program for a stack machine that may call anything. Ours knows the instructions that `torch.save` writes for a
//! dictionary of tensors (protocol 2 and up) and five callables, all of which only describe data: `_rebuild_tensor_v2`,
//! `_rebuild_parameter`, `OrderedDict`, the storage classes by their element type, and `torch.Size`. Anything else is refused by its name.
//!
//! Values live in one arena and refer to each other by index, so that nothing is nested, copied or dropped recursively: a pickle of n bytes
//! takes O(n) memory and time.

use crate::error::{Error, Result};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Longest pickle. That of Aurora's checkpoint (some 700 tensors) has 130 kB.
pub(super) const MAX_PICKLE_BYTES: u64 = 8 << 20;

/// Values: index into the arena.
type Id = u32;

/// A tensor: a strided view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Name of the storage's record.
    pub storage: String,
    /// Elements in the storage.
    pub storage_len: usize,
    pub dtype: Dtype,
    /// First element.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Elements between neighbours along each dimension.
    pub strides: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callable {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Size,
    Storage(Dtype),
}

#[derive(Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    Storage { record: String, dtype: Dtype, len: usize },
    Tensor(View),
}

/// Reads the pickle of a dictionary of tensors. Tensors of an inner dictionary are called `outer.name`; what is no tensor is left out.
pub(super) fn tensors(pickle: &[u8]) -> Result<BTreeMap<String, View>> {
    let mut machine =
        Machine { input: pickle, at: 0, arena: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    let root = machine.run()?;
    let mut found = BTreeMap::new();
    let mut seen = HashSet::from([root]);
    let Value::Dict(items) = &machine.arena[root as usize] else {
        return Err(Error::input("the pickle does not hold a dictionary of tensors"));
    };
    for &(key, value) in items {
        let Value::Text(name) = &machine.arena[key as usize] else {
            return Err(Error::input("a key of the pickled dictionary is not text"));
        };
        match &machine.arena[value as usize] {
            Value::Tensor(view) => insert(&mut found, name.clone(), view)?,
            // One level, as of {"state_dict": {...}, "epoch": 3}. Each dictionary once: thousands of references to a large one would take for ever.
            Value::Dict(inner) if seen.insert(value) => {
                for &(key, value) in inner {
                    if let (Value::Text(inner_name), Value::Tensor(view)) =
                        (&machine.arena[key as usize], &machine.arena[value as usize])
                    {
                        insert(&mut found, format!("{name}.{inner_name}"), view)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn insert(found: &mut BTreeMap<String, View>, name: String, view: &View) -> Result<()> {
    match found.insert(name.clone(), view.clone()) {
        None => Ok(()),
        Some(_) => Err(Error::input(format!("two tensors of the pickle are called {name:?}"))),
    }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    arena: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    /// Runs to the end of the program; gives the one value that it leaves.
    fn run(&mut self) -> Result<Id> {
        loop {
            let position = self.at;
            let code = self.byte()?;
            if code == b'.' {
                return match (&self.stack[..], &self.marks[..]) {
                    ([root], []) => Ok(*root),
                    _ => Err(Error::input("the pickle does not leave one value")),
                };
            }
            self.execute(code).map_err(|e| Error::input(format!("pickle, byte {position}: {e}")))?;
        }
    }

    /// One instruction. Codes as in Python's `pickletools`.
    fn execute(&mut self, code: u8) -> Result<()> {
        match code {
            // PROTO
            0x80 => match self.byte()? {
                2..=5 => Ok(()),
                other => Err(Error::input(format!("protocol {other}; 2 to 5 are read"))),
            },
            // FRAME: a length that says nothing to a reader that has all bytes.
            0x95 => self.take(8).map(drop),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' => self.unsigned(1).and_then(|n| self.push(Value::Int(n as i64))),
            b'M' => self.unsigned(2).and_then(|n| self.push(Value::Int(n as i64))),
            b'J' => self.unsigned(4).and_then(|n| self.push(Value::Int(n as u32 as i32 as i64))),
            // LONG1
            0x8a => {
                let n = self.unsigned(1)? as usize;
                let value = long(self.take(n)?)?;
                self.push(Value::Int(value))
            }
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.push(Value::Float)
            }
            b'X' => self.text(4),
            0x8c => self.text(1),
            0x8d => self.text(8),
            b'}' => self.push(Value::Dict(vec![])),
            b']' => self.push(Value::List(vec![])),
            b')' => self.push(Value::Tuple(vec![])),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b't' => {
                let items = self.to_mark()?;
                self.push(Value::Tuple(items))
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.push(Value::Tuple(items))
            }
            // POP
            b'0' => self.pop().map(drop),
            // SETITEM, SETITEMS
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)
            }
            b'u' => {
                let items = self.to_mark()?;
                self.set_items(&items)
            }
            // APPEND, APPENDS
            b'a' => {
                let items = self.pop_many(1)?;
                self.append(&items)
            }
            b'e' => {
                let items = self.to_mark()?;
                self.append(&items)
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => self.unsigned(1).and_then(|n| self.memoize(n as u32)),
            b'r' => self.unsigned(4).and_then(|n| self.memoize(n as u32)),
            0x94 => {
                let next = self.memo.len() as u32;
                self.memoize(next)
            }
            // BINGET, LONG_BINGET
            b'h' => self.unsigned(1).and_then(|n| self.recall(n as u32)),
            b'j' => self.unsigned(4).and_then(|n| self.recall(n as u32)),
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                let callable = callable(&module, &name)?;
                self.push(Value::Callable(callable))
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let callable = callable(self.as_text(names[0])?, self.as_text(names[1])?)?;
                self.push(Value::Callable(callable))
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)
            }
            // REDUCE
            b'R' => {
                let both = self.pop_many(2)?;
                let made = self.reduce(both[0], both[1])?;
                match made {
                    Made::New(value) => self.push(value),
                    Made::Same(id) => {
                        self.stack.push(id);
                        Ok(())
                    }
                }
            }
            // BUILD: sets attributes of an object; a state dictionary's are versions of modules, which say nothing of tensors.
            b'b' => {
                let both = self.pop_many(2)?;
                match &self.arena[both[0] as usize] {
                    Value::Dict(_) => {
                        self.stack.push(both[0]);
                        Ok(())
                    }
                    _ => Err(Error::input("attributes of something that is no dictionary")),
                }
            }
            other => Err(Error::input(format!("instruction {other:#04x}, which no checkpoint of tensors needs"))),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|b| b[0])
    }

    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.input.len());
        let end = end.ok_or_else(|| Error::input("the pickle ends early"))?;
        let bytes = &self.input[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// A little-endian number of `n` bytes.
    fn unsigned(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |x, &b| x << 8 | u64::from(b)))
    }

    fn text(&mut self, length_bytes: usize) -> Result<()> {
        let n = usize::try_from(self.unsigned(length_bytes)?).unwrap_or(usize::MAX);
        let bytes = self.take(n)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::input("text that is not UTF-8"))?.to_string();
        self.push(Value::Text(text))
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.input[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or_else(|| Error::input("the pickle ends early"))?;
        let line = std::str::from_utf8(&rest[..n]).map_err(|_| Error::input("a name that is not UTF-8"))?.to_string();
        self.at += n + 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Result<()> {
        // One value an instruction, so that 32 bits suffice.
        self.stack.push(self.arena.len() as Id);
        self.arena.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        // Values below a mark are out of reach until the mark is used.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(Error::input("the stack is empty"));
        }
        self.stack.pop().ok_or_else(|| Error::input("the stack is empty"))
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<Id>> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| Error::input("there is no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| Error::input("the stack is empty"))
    }

    fn memoize(&mut self, slot: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let id = *self.memo.get(&slot).ok_or_else(|| Error::input(format!("nothing was kept as {slot}")))?;
        self.stack.push(id);
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let target = self.top()? as usize;
        let Value::Dict(dict) = &mut self.arena[target] else {
            return Err(Error::input("items of something that is no dictionary"));
        };
        if !items.len().is_multiple_of(2) {
            return Err(Error::input("a key without a value"));
        }
        dict.extend(items.chunks_exact(2).map(|p| (p[0], p[1])));
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let target = self.top()? as usize;
        let Value::List(list) = &mut self.arena[target] else {
            return Err(Error::input("elements of something that is no list"));
        };
        list.extend_from_slice(items);
        Ok(())
    }

    /// A storage from its persistent id: ("storage", class, record, device, elements).
    fn storage(&self, id: Id) -> Result<Value> {
        let wrong = || Error::input("a reference to something that is no storage of a tensor");
        let Value::Tuple(parts) = &self.arena[id as usize] else { return Err(wrong()) };
        let [kind, class, record, _device, len] = parts[..] else { return Err(wrong()) };
        let Value::Callable(Callable::Storage(dtype)) = self.arena[class as usize] else { return Err(wrong()) };
        if self.as_text(kind)? != "storage" {
            return Err(wrong());
        }
        let record = self.as_text(record)?.to_string();
        Ok(Value::Storage { record, dtype, len: self.as_size(len)? })
    }

    fn reduce(&self, callable: Id, arguments: Id) -> Result<Made> {
        let Value::Callable(callable) = self.arena[callable as usize] else {
            return Err(Error::input("a call of something that is no function"));
        };
        let Value::Tuple(arguments) = &self.arena[arguments as usize] else {
            return Err(Error::input("a call without a tuple of arguments"));
        };
        match (callable, &arguments[..]) {
            (Callable::OrderedDict, []) => Ok(Made::New(Value::Dict(vec![]))),
            // torch.Size(sequence)
            (Callable::Size, &[sizes]) => Ok(Made::Same(sizes)),
            // (tensor, requires_grad, hooks)
            (Callable::RebuildParameter, &[tensor, _, _]) => match &self.arena[tensor as usize] {
                Value::Tensor(_) => Ok(Made::Same(tensor)),
                _ => Err(Error::input("a parameter of something that is no tensor")),
            },
            // (storage, offset, size, stride, requires_grad, hooks[, metadata])
            (
                Callable::RebuildTensor,
                &[storage, offset, shape, strides, _, _] | &[storage, offset, shape, strides, _, _, _],
            ) => self.view(storage, offset, shape, strides).map(|v| Made::New(Value::Tensor(v))),
            (callable, arguments) => {
                Err(Error::input(format!("a call of {callable:?} with {} arguments", arguments.len())))
            }
        }
    }

    fn view(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<View> {
        let Value::Storage { record, dtype, len } = &self.arena[storage as usize] else {
            return Err(Error::input("a tensor without a storage"));
        };
        let (offset, shape, strides) = (self.as_size(offset)?, self.as_sizes(shape)?, self.as_sizes(strides)?);
        let outside = || {
            Error::input(format!(
                "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} leaves its storage of {len}"
            ))
        };
        if shape.len() != strides.len() || shape.len() > 8 {
            return Err(outside());
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(outside)?;
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (&n, &s)| at.checked_add(n.saturating_sub(1).checked_mul(s)?));
        // Not more elements than the storage has: a stride of 0 could make a tensor of any size.
        let sound = elements == 0 || (elements <= *len && last.is_some_and(|last| last < *len));
        if !sound {
            return Err(outside());
        }
        Ok(View { storage: record.clone(), storage_len: *len, dtype: *dtype, offset, shape, strides })
    }

    fn as_text(&self, id: Id) -> Result<&str> {
        match &self.arena[id as usize] {
            Value::Text(text) => Ok(text),
            _ => Err(Error::input("something that is no text where a name should be")),
        }
    }

    fn as_size(&self, id: Id) -> Result<usize> {
        match self.arena[id as usize] {
            Value::Int(n) => usize::try_from(n).map_err(|_| Error::input(format!("a size of {n}"))),
            _ => Err(Error::input("something that is no whole number where a size should be")),
        }
    }

    fn as_sizes(&self, id: Id) -> Result<Vec<usize>> {
        match &self.arena[id as usize] {
            Value::Tuple(items) | Value::List(items) if items.len() <= 64 => {
                items.iter().map(|&i| self.as_size(i)).collect()
            }
            _ => Err(Error::input("something that is no short list of sizes")),
        }
    }
}

/// What a call gives: a new value or one of its arguments.
enum Made {
    New(Value),
    Same(Id),
}

/// A little-endian two's complement number.
fn long(bytes: &[u8]) -> Result<i64> {
    if bytes.len() > 8 {
        return Err(Error::input(format!("a number of {} bytes", bytes.len())));
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut full = [if negative { 0xff } else { 0 }; 8];
    full[..bytes.len()].copy_from_slice(bytes);
    Ok(i64::from_le_bytes(full))
}

fn callable(module: &str, name: &str) -> Result<Callable> {
    Ok(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Callable::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Callable::RebuildParameter,
        ("collections", "OrderedDict") => Callable::OrderedDict,
        ("torch", "Size") => Callable::Size,
        ("torch", "FloatStorage") => Callable::Storage(Dtype::F32),
        ("torch", "DoubleStorage") => Callable::Storage(Dtype::F64),
        ("torch", "HalfStorage") => Callable::Storage(Dtype::F16),
        ("torch", "BFloat16Storage") => Callable::Storage(Dtype::BF16),
        ("torch", "LongStorage") => Callable::Storage(Dtype::I64),
        ("torch", "IntStorage") => Callable::Storage(Dtype::I32),
        ("torch", "ShortStorage") => Callable::Storage(Dtype::I16),
        ("torch", "CharStorage") => Callable::Storage(Dtype::I8),
        ("torch", "ByteStorage") => Callable::Storage(Dtype::U8),
        ("torch", "BoolStorage") => Callable::Storage(Dtype::BOOL),
        _ => {
            return Err(Error::input(format!(
                "it names {module}.{name}, which no checkpoint of tensors needs; it might run code elsewhere, here nothing was run"
            )));
        }
    })
}

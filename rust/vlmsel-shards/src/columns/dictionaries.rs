//! Dictionaries that say no more than their rows need.

use std::sync::Arc;

use arrow_array::types::ArrowDictionaryKeyType;
use arrow_array::{Array, ArrayRef, DictionaryArray, PrimitiveArray, UInt64Array, downcast_dictionary_array};
use arrow_buffer::ArrowNativeType;
use arrow_schema::ArrowError;

/// The same rows with a dictionary of those values alone that they use, where theirs is longer than they are. Slices of a
/// table share its dictionary, and casts and encodings go through all of it: for each slice, the square of the table.
///
/// # Errors
/// Keys beyond the dictionary.
pub fn narrowed(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    downcast_dictionary_array!(
        array => if array.values().len() > array.len() { narrow(array) } else { Ok(Arc::new(array.clone())) },
        _ => Ok(array.clone())
    )
}

fn narrow<K: ArrowDictionaryKeyType>(array: &DictionaryArray<K>) -> Result<ArrayRef, ArrowError> {
    // Keys of nulls may be anything.
    let key = |at: usize| array.keys().is_valid(at).then(|| array.keys().value(at).as_usize());
    let mut used: Vec<u64> = (0..array.len()).filter_map(key).map(|key| key as u64).collect();
    used.sort_unstable();
    used.dedup();
    let place = |key: usize| used.binary_search(&(key as u64)).map(K::Native::usize_as).unwrap_or_default();
    let keys: PrimitiveArray<K> = (0..array.len()).map(|at| key(at).map(place)).collect();
    let values = arrow_select::take::take(array.values(), &UInt64Array::from(used.clone()), None)?;
    Ok(Arc::new(DictionaryArray::<K>::try_new(keys, values)?))
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int8Type, UInt32Type};
    use arrow_array::{Int8Array, StringArray, UInt32Array};
    use arrow_schema::DataType;

    use super::*;

    fn texts(array: &ArrayRef) -> Vec<Option<String>> {
        let plain = arrow_cast::cast(array, &DataType::Utf8).unwrap();
        plain.as_string::<i32>().iter().map(|text| text.map(ToOwned::to_owned)).collect()
    }

    #[test]
    fn slices_keep_their_rows_and_the_values_that_these_use() {
        let values: StringArray = (0..1000).map(|n| (n % 7 != 0).then(|| format!("value {n}"))).collect();
        let keys: UInt32Array = (0..1000_u32).map(|n| (n % 5 != 0).then_some(n * 37 % 1000)).collect();
        let whole: ArrayRef = Arc::new(DictionaryArray::<UInt32Type>::new(keys, Arc::new(values)));
        for (start, length) in [(0, 0), (3, 1), (100, 40), (0, 999), (0, 1000)] {
            let slice = whole.slice(start, length);
            let narrow = narrowed(&slice).unwrap();
            assert_eq!((narrow.data_type(), texts(&narrow)), (slice.data_type(), texts(&slice)));
            assert!(narrow.as_any_dictionary().values().len() <= length);
        }
    }

    #[test]
    fn short_dictionaries_and_other_arrays_are_left_alone() {
        let keys = Int8Array::from(vec![Some(1), None, Some(0), Some(1)]);
        let dictionary: ArrayRef =
            Arc::new(DictionaryArray::<Int8Type>::new(keys, Arc::new(StringArray::from(vec!["a", "b"]))));
        let plain: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        for array in [dictionary, plain] {
            assert_eq!(&narrowed(&array).unwrap(), &array);
        }
    }
}
